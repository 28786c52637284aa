//! Metrics of the process, under the names that Prometheus client libraries use. They are read from `/proc`; on systems
//! without it, they are absent.

use std::fs;

use super::text::{Kind, Page};

/// When the process started, in seconds since 1970. Read once: the kernel computes it from the wall clock, so an adjusted clock
/// would look like a restart.
pub(super) fn started() -> Option<f64> {
    let since_boot = read()?.started as f64 / rustix::param::clock_ticks_per_second() as f64;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok())?;
    Some(boot + since_boot)
}

/// Writes the families of this process, as it is at this moment.
pub(super) fn write(page: &mut Page, started: Option<f64>) {
    let Some(process) = read() else { return };
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut one = |kind, name, help, value: Option<f64>| {
        if let Some(value) = value {
            page.family(kind, name, help).sample(&[], value);
        }
    };
    let cpu = process.cpu as f64 / ticks;
    one(
        Kind::Counter,
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        Some(cpu),
    );
    let resident = process.resident_pages * rustix::param::page_size() as u64;
    one(
        Kind::Gauge,
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        Some(resident as f64),
    );
    one(
        Kind::Gauge,
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        Some(process.virtual_bytes as f64),
    );
    one(
        Kind::Gauge,
        "process_threads",
        "Number of OS threads in the process.",
        Some(process.threads as f64),
    );
    // Reading the directory opens it.
    let open = fs::read_dir("/proc/self/fd")
        .ok()
        .map(|open| open.count().saturating_sub(1) as f64);
    one(
        Kind::Gauge,
        "process_open_fds",
        "Number of open file descriptors.",
        open,
    );
    let limits = fs::read_to_string("/proc/self/limits").ok();
    let most = limits.and_then(|limits| {
        limits.lines().find_map(|line| {
            line.strip_prefix("Max open files")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
    });
    one(
        Kind::Gauge,
        "process_max_fds",
        "Maximum number of open file descriptors.",
        most,
    );
    let help = "Start time of the process since unix epoch in seconds.";
    one(Kind::Gauge, "process_start_time_seconds", help, started);
}

/// Fields of `/proc/self/stat`; times are in clock ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu: u64,
    threads: u64,
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

fn read() -> Option<Stat> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse(stat: &str) -> Option<Stat> {
    // The program's name may hold anything; the third field follows its last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered as in proc(5).
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu: field(14)? + field(15)?,
        threads: field(20)?,
        started: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let stat = "7 (a) S 1 (b) R 1 7 7 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 9 0 12345 1000 250 18446744073709551615 1";
        let read = Stat {
            cpu: 56,
            threads: 9,
            started: 12345,
            virtual_bytes: 1000,
            resident_pages: 250,
        };
        assert_eq!(parse(stat), Some(read));
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
