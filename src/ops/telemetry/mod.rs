//! OpenTelemetry traces, if the standard variables name a collector.
//!
//! A span is a reconciliation, a request to Calry, the update of a provider or a fetch of a repository. Spans have their own
//! target, [`SPANS`], so that no log line shows one.
//!
//! Never: put a value into a span, only names, states and times.

mod collector;

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};

use crate::model::SPANS;
use collector::CollectorClient;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last export may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporter. On drop it sends the pending spans, for at most [`FLUSH_TIMEOUT`].
pub(crate) struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Sets up what the standard variables ask for; `None` if they name no collector.
    pub(crate) fn from_environment() -> Option<Result<Self, String>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ];
        let off = variable("OTEL_SDK_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if off || !named.into_iter().any(|name| variable(name).is_some()) {
            return None;
        }
        let named = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES")
                .is_some_and(|value| value.contains("service.name="));
        Some(Self::start(named))
    }

    fn start(named: bool) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient::new(EXPORT_TIMEOUT)?)
            .build();
        // The error may quote a token.
        let exporter =
            exporter.map_err(|_| "a variable OTEL_EXPORTER_OTLP_… is invalid".to_owned())?;
        let resource = Resource::builder().with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ));
        let resource = if named {
            resource
        } else {
            resource.with_service_name("calry-gitops")
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    pub(crate) fn tracer(&self) -> Tracer {
        self.0.tracer("calry-gitops")
    }

    /// Lets spans pass, and nothing else.
    pub(crate) fn filter() -> tracing_subscriber::filter::Targets {
        tracing_subscriber::filter::Targets::new().with_target(SPANS, tracing::Level::INFO)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // An unreachable collector must not make the command fail.
        let _ = self.0.shutdown_with_timeout(FLUSH_TIMEOUT);
    }
}
