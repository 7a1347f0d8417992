//! One JSON object a line, which Lambda stamps with the time itself.

/// From now on what is logged goes to standard output.
pub fn start(level: tracing::Level) {
    // Lambda stamps each line with the time itself.
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_writer(std::io::stdout)
        .init();
}
