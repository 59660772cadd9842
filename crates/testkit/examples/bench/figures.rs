//! Medians and tables.

/// Durations of one kind, in milliseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series {
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn push(&mut self, milliseconds: f64) {
        self.values.push(milliseconds);
    }

    /// The value below which this share of all values lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        // Rounded up: a tail is never made to look better than it is.
        let index = (share * last as f64).ceil() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// Prints a line of a table.
pub(crate) fn line(name: &str, series: &Series) {
    println!(
        "  {name:<44} n {:>3}   median {:>8.1} ms   p90 {:>8.1} ms   least {:>8.1} ms",
        series.values.len(),
        series.median(),
        series.quantile(0.9),
        series.quantile(0.0)
    );
}

/// Prints whether a goal is met.
pub(crate) fn goal(name: &str, value: f64, unit: &str, limit: f64) {
    let verdict = if value <= limit { "met" } else { "MISSED" };
    println!("  goal: {name} {value:.2}{unit}, at most {limit}{unit}: {verdict}");
}

/// What the figures were measured on.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{cores} cores, load {load} at the start; both sides of each comparison were measured in turn")
}

/// Milliseconds since the epoch, with microseconds.
pub(crate) fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
