//! Prints results to standard output, and everything else to standard error.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::{ArgAction, Args, ValueEnum};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt::format::{FmtSpan, Writer, debug_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::log_queue::LogQueue;
use crate::daemon::log::AUDIT;
use crate::model::{Diagnostic, Severity, printable};
use crate::ops::telemetry::Telemetry;
use crate::render;

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "auto|always|never")]
    color: Color,
    /// Format of the log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "CALRY_LOG_FORMAT", value_name = "text|json")]
    log_format: LogFormat,
    /// More log output (-vv: trace); never prints secrets
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The two streams, with the operator's choice of colours and verbosity.
pub(super) struct Output {
    color: ColorChoice,
    quiet: bool,
    /// Why a result was not printed as a whole.
    write_error: OnceLock<io::Error>,
    /// Standard error of a long-running command, which must not wait for its reader.
    queue: Option<LogQueue>,
    /// Sends the remaining traces when this is dropped.
    _telemetry: Option<Telemetry>,
}

impl Output {
    /// Sets up the log. At any verbosity it has lines of this program only: the most verbose lines of libraries may hold
    /// secrets.
    pub(super) fn new(args: &OutputArgs, long_running: bool) -> Self {
        let color = match args.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        let level = match (args.quiet, args.verbose, long_running) {
            (true, _, _) => LevelFilter::ERROR,
            (_, 0, false) => LevelFilter::WARN,
            (_, 0, true) => LevelFilter::INFO,
            (_, 1, _) => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        // A one-shot command logs what it has written like the daemon, except where its report is read at a terminal.
        let audit = match (args.quiet, args.verbose, long_running) {
            (false, 0, false) if std::io::stderr().is_terminal() => LevelFilter::OFF,
            (false, 0, false) => LevelFilter::INFO,
            (true, _, false) => LevelFilter::OFF,
            _ => level,
        };
        let filter = tracing_subscriber::filter::Targets::new()
            .with_target(env!("CARGO_CRATE_NAME"), level)
            .with_target(AUDIT, audit);
        let telemetry = long_running.then(Telemetry::from_environment).flatten();
        let (telemetry, telemetry_error) = match telemetry.transpose() {
            Ok(telemetry) => (telemetry, None),
            Err(why) => (None, Some(why)),
        };
        let traces = telemetry.as_ref().map(|telemetry| {
            let layer = tracing_opentelemetry::layer()
                .with_tracer(telemetry.tracer())
                .with_level(false);
            let layer = layer
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false);
            layer.with_filter(Telemetry::filter())
        });
        let registry = tracing_subscriber::registry().with(traces);
        let dropped_line = match args.log_format {
            LogFormat::Json => dropped_document,
            LogFormat::Text => dropped_text,
        };
        // A one-shot command waits for its reader, which must get all of it.
        let queue = if long_running {
            LogQueue::start(std::io::stderr(), dropped_line).ok()
        } else {
            None
        };
        let writer = match &queue {
            Some(queue) => BoxMakeWriter::new(queue.clone()),
            None => BoxMakeWriter::new(std::io::stderr),
        };
        // An error of writing to standard error cannot be reported, and trying would panic.
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_span_events(FmtSpan::NONE)
            .log_internal_errors(false);
        match args.log_format {
            LogFormat::Json => {
                let json = layer.json().flatten_event(true).with_target(false);
                let json = json.with_current_span(false).with_span_list(false);
                registry
                    .with(json.map_event_format(JsonLine).with_filter(filter))
                    .init();
            }
            LogFormat::Text => {
                let ansi = choose(color, &std::io::stderr()) != ColorChoice::Never;
                // The sentence is for people; the fields are the same facts for machines.
                let sentence = debug_fn(|writer, field, value| {
                    // Only spans have the field `workspace`, with which the line begins.
                    match field.name() {
                        "message" => write!(writer, "{value:?}"),
                        "workspace" => write!(writer, "{}", format!("{value:?}").trim_matches('"')),
                        _ => Ok(()),
                    }
                });
                let layer = layer
                    .with_ansi(ansi)
                    .fmt_fields(sentence)
                    .event_format(TextLine);
                registry.with(layer.with_filter(filter)).init();
            }
        }
        if let Some(why) = telemetry_error {
            tracing::warn!("cannot export OpenTelemetry traces: {why}");
        }
        Self {
            color,
            quiet: args.quiet,
            write_error: OnceLock::new(),
            queue,
            _telemetry: telemetry,
        }
    }

    pub(super) fn result(&self, text: &str) {
        let printed = AutoStream::new(std::io::stdout(), self.color).write_all(text.as_bytes());
        match printed.and_then(|()| std::io::stdout().flush()) {
            Ok(()) => {}
            // A reader such as `head` closes the pipe when it has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => _ = self.write_error.set(error),
        }
    }

    /// Why a result was not printed as a whole: the command must not succeed then.
    pub(super) fn write_error(&self) -> Option<&io::Error> {
        self.write_error.get()
    }

    /// Draws a screen in place of the last one, cut to the lines of the terminal.
    pub(super) fn draw(&self, text: &str) {
        let rows = rustix::termios::tcgetwinsize(std::io::stdout())
            .map_or(0, |size| usize::from(size.ws_row));
        let rows = if rows < 2 { usize::MAX } else { rows - 1 };
        let text = if choose(self.color, &std::io::stdout()) == ColorChoice::Never {
            anstream::adapter::strip_str(text).to_string()
        } else {
            text.to_owned()
        };
        // Clearing each line to its end, then the rest of the screen, avoids flicker. The cursor moves without colours as
        // well.
        let lines: String = text
            .lines()
            .take(rows)
            .map(|line| format!("{line}\x1b[K\n"))
            .collect();
        let mut out = std::io::stdout();
        let _ = out.write_all(format!("\x1b[H{lines}\x1b[0m\x1b[J").as_bytes());
        let _ = out.flush();
    }

    /// Prints a text that is not the result.
    pub(super) fn note(&self, text: &str) {
        let Some(queue) = &self.queue else {
            let _ = AutoStream::new(std::io::stderr(), self.color).write_all(text.as_bytes());
            return;
        };
        let color = choose(self.color, &std::io::stderr());
        let mut text_in_color = AutoStream::new(Vec::new(), color);
        let _ = text_in_color.write_all(text.as_bytes());
        queue.push(&text_in_color.into_inner());
    }

    /// Waits, for a limited time, until standard error has everything.
    pub(super) fn flush(&self) {
        self.queue.iter().for_each(LogQueue::flush);
    }

    /// Prints why the command failed.
    pub(super) fn error(&self, sentence: &str) {
        const RED: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
        self.note(&format!("{RED}error{RED:#}: {sentence}\n"));
    }

    pub(super) fn diagnostics(&self, list: &[Diagnostic], directory: &str, files: usize) {
        let errors = || {
            list.iter()
                .filter(|d| d.severity == Severity::Error)
                .cloned()
                .collect()
        };
        let shown = if self.quiet {
            Cow::Owned(errors())
        } else {
            Cow::Borrowed(list)
        };
        if !shown.is_empty() {
            self.note(&render::diagnostics(&shown, directory, files));
        }
    }

    /// Whether a user watches standard error.
    pub(super) fn is_watched(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// The colours of a stream, if the operator leaves the choice to us.
fn choose(color: ColorChoice, stream: &impl RawStream) -> ColorChoice {
    match color {
        ColorChoice::Auto => AutoStream::choice(stream),
        choice => choice,
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The text of the line that replaces dropped ones.
fn dropped_sentence(count: u64) -> String {
    let lines = if count == 1 { "line was" } else { "lines were" };
    format!("{count} log {lines} dropped: standard error was not read")
}

fn dropped_text(count: u64) -> String {
    format!(
        "{:.0}  WARN {}\n",
        jiff::Timestamp::now(),
        dropped_sentence(count)
    )
}

fn dropped_document(count: u64) -> String {
    let timestamp = format!("{:.6}", jiff::Timestamp::now());
    let message = dropped_sentence(count);
    format!(
        "{}\n",
        json!({"timestamp": timestamp, "level": "WARN", "message": message, "dropped": count})
    )
}

/// The span of one workspace of several. Its one field is `workspace`.
pub(super) const WORKSPACE_SPAN: &str = "workspace";

/// The formatted fields of the workspace span that an event is in, if there are several workspaces.
fn workspace<S, N>(context: &FmtContext<'_, S, N>) -> Option<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let span = context
        .event_scope()?
        .find(|span| span.name() == WORKSPACE_SPAN)?;
    span.extensions()
        .get::<FormattedFields<N>>()
        .map(|fields| fields.fields.clone())
}

const DIM: Style = Style::new().dimmed();

/// A line for people: time (RFC 3339, UTC, whole seconds), level, workspace and sentence.
struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let (dim, style) = match (writer.has_ansi_escapes(), level) {
            (false, _) => (Style::new(), Style::new()),
            (true, Level::ERROR) => (DIM, AnsiColor::Red.on_default()),
            (true, Level::WARN) => (DIM, AnsiColor::Yellow.on_default()),
            (true, Level::INFO) => (DIM, AnsiColor::Green.on_default()),
            (true, _) => (DIM, AnsiColor::Blue.on_default()),
        };
        write!(
            writer,
            "{dim}{:.0}{dim:#} {style}{level:>5}{style:#} ",
            jiff::Timestamp::now()
        )?;
        if let Some(workspace) = workspace(context) {
            write!(writer, "{workspace}: ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        // Lines for debugging show their fields; the sentences of other lines have them.
        if level >= Level::DEBUG {
            event.record(&mut FieldWriter(&mut writer));
        }
        writeln!(writer)
    }
}

/// Writes the fields of an event after its sentence.
struct FieldWriter<'a, 'w>(&'a mut Writer<'w>);

impl Visit for FieldWriter<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            // An error of writing to the log cannot be reported.
            let _ = write!(
                self.0,
                " {}={}",
                field.name(),
                printable(&format!("{value:?}"))
            );
        }
    }
}

/// A line for machines: one JSON object.
struct JsonLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for JsonLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(workspace) = workspace(context) else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let workspace = workspace.trim_start_matches('{').trim_end_matches('}');
        write!(
            writer,
            "{{{workspace},{}",
            line.strip_prefix('{').unwrap_or(&line)
        )
    }
}
