//! The captured output of every process.

use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;

/// The oldest lines go when there are more than this many.
pub(crate) const LINES_MAX: usize = 20_000;
/// A longer line is cut here.
pub(crate) const LINE_BYTES_MAX: usize = 64 * 1024;

/// One line that a process wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Since the emulator was started.
    pub at: Duration,
    /// `runtime` or the name of an extension.
    pub source: String,
    /// Where it was written.
    pub stream: Stream,
    /// The line without its end; what is not UTF-8 is replaced.
    pub text: String,
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

pub(crate) struct Logs {
    lines: Mutex<VecDeque<LogLine>>,
    changed: watch::Sender<u64>,
    echo: bool,
}

impl Logs {
    pub(crate) fn new(echo: bool) -> Self {
        Self {
            lines: Mutex::default(),
            changed: watch::Sender::new(0),
            echo,
        }
    }

    pub(crate) fn add(&self, line: LogLine) {
        if self.echo {
            eprintln!(
                "[{:9.3}s {}] {}",
                line.at.as_secs_f64(),
                line.source,
                line.text
            );
        }
        {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() >= LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    pub(crate) async fn wait_for(
        &self,
        limit: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> Option<LogLine> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                let found = self
                    .lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                    .find(|line| wanted(line))
                    .cloned();
                if found.is_some() || changed.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }
}

/// Hands every line of `pipe` to `line`, cut to [`LINE_BYTES_MAX`], until the pipe ends.
pub(crate) async fn read_lines(pipe: impl AsyncRead + Unpin, mut line: impl FnMut(String)) {
    let mut reader = BufReader::new(pipe);
    let mut pending: Vec<u8> = Vec::new();
    while let Ok(available) = reader.fill_buf().await {
        if available.is_empty() {
            break;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let text = &available[..end.unwrap_or(available.len())];
        let room = LINE_BYTES_MAX.saturating_sub(pending.len()).min(text.len());
        pending.extend_from_slice(&text[..room]);
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            line(String::from_utf8_lossy(&pending).into_owned());
            pending.clear();
        }
    }
    if !pending.is_empty() {
        line(String::from_utf8_lossy(&pending).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            at: Duration::ZERO,
            source: "runtime".to_owned(),
            stream: Stream::Stdout,
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_oldest_lines_go_first() {
        let logs = Logs::new(false);
        for number in 0..=LINES_MAX {
            logs.add(line(&number.to_string()));
        }
        let lines = logs.lines();
        assert_eq!((lines.len(), lines[0].text.as_str()), (LINES_MAX, "1"));
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let text = format!("{}\nnext\nlast", "x".repeat(LINE_BYTES_MAX + 1));
        let mut lines = Vec::new();
        read_lines(text.as_bytes(), |line| lines.push(line)).await;
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [LINE_BYTES_MAX, 4, 4]
        );
    }
}
