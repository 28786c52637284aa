//! Writes log lines to standard error from a thread of its own, so that a reader that stops reading never stops the daemon.
//!
//! It is our own code because tracing-appender bounds its queue by lines and not by bytes, and does not print how many
//! lines were dropped.
//!
//! Never: block its callers, keep more than [`CAPACITY`] bytes, or print a part of a line.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// How many bytes of lines wait at most.
const CAPACITY: usize = 1 << 20;

/// How long the final flush waits for a reader that reads nothing.
const STALL_LIMIT: Duration = Duration::from_secs(1);

/// The longest final flush, for a slow reader.
const LONGEST_FLUSH: Duration = Duration::from_secs(5);

/// The pause before a full pipe is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Formats the line that reports dropped lines.
pub(super) type DroppedLine = fn(u64) -> String;

/// Lines that wait for their writer.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    dropped_line: DroppedLine,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// The bytes of all lines that wait.
    bytes: usize,
    /// The number of lines dropped since the last report.
    dropped: u64,
    written: u64,
    /// Whether the thread is writing a line that is not in the queue any more.
    writing: bool,
}

impl LogQueue {
    /// Starts the thread that writes to `sink`.
    pub(super) fn start(
        sink: impl Write + Send + 'static,
        dropped_line: DroppedLine,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            dropped_line,
        });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writing.write_to(sink))?;
        Ok(Self(shared))
    }

    /// Puts whole lines at the end, or drops them if the queue is full. A full queue takes nothing before half of it is
    /// written, so that a slow reader sees more than every second line.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut queue = self.0.queue.lock();
        let limit = if queue.dropped > 0 {
            CAPACITY / 2
        } else {
            CAPACITY
        };
        if queue.bytes + lines.len() > limit {
            queue.dropped += 1;
        } else {
            self.0.report_dropped(&mut queue);
            queue.bytes += lines.len();
            queue.lines.push_back(lines.to_vec());
        }
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, [`STALL_LIMIT`] at most for a reader that takes nothing.
    pub(super) fn flush(&self) {
        let end = Instant::now() + LONGEST_FLUSH;
        let mut queue = self.0.queue.lock();
        let (mut written, mut since) = (queue.written, Instant::now());
        while queue.writing || queue.dropped > 0 || !queue.lines.is_empty() {
            let now = Instant::now();
            if queue.written != written {
                (written, since) = (queue.written, now);
            }
            let until = end.min(since + STALL_LIMIT);
            if now >= until {
                return;
            }
            self.0.changed.wait_for(&mut queue, until - now);
        }
    }
}

impl Shared {
    /// Appends the report of dropped lines, if any were dropped.
    fn report_dropped(&self, queue: &mut Queue) {
        let dropped = std::mem::take(&mut queue.dropped);
        if dropped > 0 {
            let line = (self.dropped_line)(dropped).into_bytes();
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
    }

    fn write_to(&self, mut sink: impl Write) {
        loop {
            let mut queue = self.queue.lock();
            let line = loop {
                if queue.lines.is_empty() {
                    self.report_dropped(&mut queue);
                }
                if let Some(line) = queue.lines.pop_front() {
                    break line;
                }
                self.changed.wait(&mut queue);
            };
            queue.bytes -= line.len();
            queue.writing = true;
            drop(queue);
            write_whole(&mut sink, &line);
            let mut queue = self.queue.lock();
            queue.written += 1;
            queue.writing = false;
            drop(queue);
            self.changed.notify_all();
        }
    }
}

/// Writes a line whole. If standard error is closed, that cannot be reported.
fn write_whole(sink: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match sink.write(line) {
            Ok(0) => return,
            Ok(count) => line = line.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another program set the pipe to return instead of waiting.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(RETRY_PAUSE)
            }
            Err(_) => return,
        }
    }
}

impl Write for &LogQueue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes one line for each permit.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<String>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            let _ = self.1.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (LogQueue, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let ((permits, permitted), (send, written)) = (mpsc::channel(), mpsc::channel());
        let queue =
            LogQueue::start(Slow(permitted, send), |count| format!("{count} dropped\n")).unwrap();
        (queue, permits, written)
    }

    #[test]
    fn a_reader_that_stops_reading_costs_lines_that_are_counted_and_no_time() {
        let (queue, permits, written) = slow();
        let line = format!("{}\n", "x".repeat(1023));
        let pushed = 3 * CAPACITY / line.len();
        (0..pushed).for_each(|_| queue.push(line.as_bytes()));
        assert!(queue.0.queue.lock().bytes <= CAPACITY);
        let began = Instant::now();
        queue.flush();
        assert!(
            began.elapsed() < LONGEST_FLUSH,
            "the end does not wait for a reader that takes nothing"
        );
        (0..pushed).for_each(|_| _ = permits.send(()));
        queue.flush();
        let written: Vec<String> = written.try_iter().collect();
        let (last, lines) = written.split_last().unwrap();
        assert!(
            lines.iter().all(|written| *written == line),
            "lines stay whole and in order"
        );
        assert_eq!(*last, format!("{} dropped\n", pushed - lines.len()));
    }

    #[test]
    fn the_count_replaces_the_missing_lines() {
        let (queue, permits, written) = slow();
        let long = "x".repeat(CAPACITY / 2 + 1);
        // The thread holds the first, the second fits, and nothing fits beside it.
        queue.push(b"first\n");
        while !queue.0.queue.lock().writing {
            std::thread::yield_now();
        }
        queue.push(long.as_bytes());
        queue.push(long.as_bytes());
        queue.push(b"dropped as well, though it would fit\n");
        permits.send(()).unwrap();
        permits.send(()).unwrap();
        assert_eq!(
            [written.recv().unwrap(), written.recv().unwrap()],
            ["first\n".to_owned(), long]
        );
        permits.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), "2 dropped\n");
        queue.push(b"next\n");
        permits.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), "next\n");
    }
}
