//! `GET /metrics`: what the process counts, in the text format of Prometheus.
//!
//! It is a recorder of the demo's own, so that the demo needs no further dependency. An app uses
//! `metrics-exporter-prometheus`, as the guide `observability` shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::http::header;
use axum::response::IntoResponse;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

static RECORDER: OnceLock<Prometheus> = OnceLock::new();

/// To be called before the first metric.
pub(crate) fn install() -> Result<(), String> {
    let recorder = RECORDER.get_or_init(Prometheus::default);
    metrics::set_global_recorder(recorder.clone()).map_err(|error| error.to_string())
}

/// The demo shows them to everybody. A real app does not: serve them on another port, or behind the app's own access control.
pub(crate) async fn scrape() -> impl IntoResponse {
    let text = RECORDER.get().map(Prometheus::render).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[derive(Clone, Default)]
struct Prometheus(Arc<Mutex<Metrics>>);

#[derive(Default)]
struct Metrics {
    help: BTreeMap<String, String>,
    /// By name, and then by labels as they are written.
    series: BTreeMap<String, BTreeMap<String, Series>>,
}

enum Series {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

#[derive(Default)]
struct Buckets(Mutex<([u64; BOUNDS.len()], u64, f64)>);

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let (counts, count, sum) = &mut *lock(&self.0);
        counts.iter_mut().zip(BOUNDS).filter(|(_, bound)| value <= *bound).for_each(|(count, _)| *count += 1);
        *count += 1;
        *sum += value;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn labels(key: &Key) -> String {
    let escaped = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let labels: Vec<_> = key.labels().map(|label| format!("{}=\"{}\"", label.key(), escaped(label.value()))).collect();
    labels.join(",")
}

impl Prometheus {
    fn describe(&self, name: &KeyName, help: &SharedString) {
        lock(&self.0).help.insert(name.as_str().to_owned(), help.to_string());
    }

    /// The series of a key, made if it is new. None if its name has another type.
    fn series<T: Clone>(&self, key: &Key, new: Series, of_type: impl FnOnce(&Series) -> Option<&T>) -> Option<T> {
        let mut metrics = lock(&self.0);
        let named = metrics.series.entry(key.name().to_owned()).or_default();
        of_type(named.entry(labels(key)).or_insert(new)).cloned()
    }

    fn render(&self) -> String {
        let metrics = lock(&self.0);
        let mut text = String::new();
        for (name, series) in &metrics.series {
            if let Some(help) = metrics.help.get(name) {
                let _ = writeln!(text, "# HELP {name} {help}");
            }
            let kind = match series.values().next() {
                Some(Series::Counter(_)) => "counter",
                Some(Series::Histogram(_)) => "histogram",
                _ => "gauge",
            };
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for (labels, series) in series {
                series.render(name, labels, &mut text);
            }
        }
        text
    }
}

impl Series {
    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let braces = |labels: &str| if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = match self {
            Self::Counter(count) => writeln!(text, "{name}{} {}", braces(labels), count.load(Ordering::Relaxed)),
            Self::Gauge(bits) => {
                writeln!(text, "{name}{} {}", braces(labels), f64::from_bits(bits.load(Ordering::Relaxed)))
            }
            Self::Histogram(buckets) => {
                let (counts, count, sum) = &*lock(&buckets.0);
                let before = if labels.is_empty() { String::new() } else { format!("{labels},") };
                for (bound, count) in BOUNDS.iter().zip(counts) {
                    let _ = writeln!(text, "{name}_bucket{{{before}le=\"{bound}\"}} {count}");
                }
                let _ = writeln!(text, "{name}_bucket{{{before}le=\"+Inf\"}} {count}");
                let _ = writeln!(text, "{name}_sum{} {sum}", braces(labels));
                writeln!(text, "{name}_count{} {count}", braces(labels))
            }
        };
    }
}

impl Recorder for Prometheus {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let counter = self.series(key, Series::Counter(Arc::default()), |series| match series {
            Series::Counter(counter) => Some(counter),
            _ => None,
        });
        counter.map_or(Counter::noop(), Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let gauge = self.series(key, Series::Gauge(Arc::default()), |series| match series {
            Series::Gauge(gauge) => Some(gauge),
            _ => None,
        });
        gauge.map_or(Gauge::noop(), Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let histogram = self.series(key, Series::Histogram(Arc::default()), |series| match series {
            Series::Histogram(histogram) => Some(histogram),
            _ => None,
        });
        histogram.map_or(Histogram::noop(), Histogram::from_arc)
    }
}
