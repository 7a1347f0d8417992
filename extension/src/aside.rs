//! Long work that nobody waits for, on a thread beside the loop: compressing, and cutting what is too large.
//!
//! The thread is started when it is first needed, ends when it has been idle, and is of low priority: where the function
//! has one processor or less, the handler and the answers to its requests go first, and while the sandbox is held nobody
//! else wants the processor.

use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// What fits into one turn of the loop: about 50 µs of compressing on a whole processor, less than a thread costs.
pub const ONE_TURN_BYTES: usize = 16 * 1024;

/// The thread's niceness: beside a busy handler it gets about a tenth of the processor, so that it is never starved.
const NICENESS: i32 = 10;

/// Does `work` on that thread. `None` if it panics.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(move || {
        // Where it is not permitted, the work is done all the same.
        let _ = setpriority_process(Some(gettid()), NICENESS);
        work()
    })
    .await
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[tokio::test]
    async fn what_is_done_aside_lets_others_go_first() {
        let here = getpriority_process(Some(gettid())).unwrap();
        let there = aside(|| getpriority_process(Some(gettid())).unwrap()).await;
        assert_eq!(there, Some(NICENESS.max(here)));
        assert_eq!(getpriority_process(Some(gettid())).unwrap(), here);
    }

    #[tokio::test]
    async fn a_panic_there_stays_there() {
        assert_eq!(aside(|| -> u8 { panic!("a fault aside") }).await, None);
        assert_eq!(aside(|| 1).await, Some(1));
    }
}
