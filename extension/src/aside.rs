//! Long work beside the loop, on two kinds of threads.
//!
//! What a client waits for ([`for_a_client`]) is done at the same priority as everything else. What nobody waits for, compressing
//! and cutting ([`aside`]), is done at a low one: where the function has one processor or less, the handler and the answers
//! to its requests go first, and while the sandbox is held nobody else wants the processor. The two never share a thread,
//! because a thread that has become nice stays so.
//!
//! A nice thread that is interrupted while it holds the allocator's lock stops the loop for as long as others have the
//! processor: it holds it while it clears or copies what it allocates. So what is made aside lies in pages of its own
//! ([`crate::memory::Growing`]), which the allocator knows nothing of, and the compressor is kept.

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

/// What fits into one turn of the loop: about 50 µs of compressing on a whole processor, less than a thread costs.
pub const ONE_TURN_BYTES: usize = 16 * 1024;

/// The niceness of such a thread: beside a busy handler it gets about a tenth of the processor, so that it is never starved.
const NICENESS: i32 = 10;

/// Does `work` on a thread of low priority. `None` if it panics, or there is no thread for it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("aside".into());
    let started = thread.spawn(move || {
        // Where it is not permitted, the work is done all the same.
        let _ = setpriority_process(Some(gettid()), NICENESS);
        let _ = done.send(work());
    });
    started.ok()?;
    outcome.await.ok()
}

/// Does `work` that a client waits for on a thread of its own. `None` if it panics.
pub async fn for_a_client<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    fn niceness() -> i32 {
        getpriority_process(Some(gettid())).unwrap()
    }

    #[tokio::test]
    async fn what_is_done_aside_lets_others_go_first_and_what_a_client_waits_for_does_not() {
        let here = niceness();
        assert_eq!(aside(niceness).await, Some(NICENESS.max(here)));
        assert_eq!(for_a_client(niceness).await, Some(here));
        assert_eq!(niceness(), here);
    }

    #[tokio::test]
    async fn a_panic_there_stays_there() {
        assert_eq!(aside(|| -> u8 { panic!("a fault aside") }).await, None);
        assert_eq!(for_a_client(|| -> u8 { panic!("a fault") }).await, None);
        assert_eq!(aside(|| 1).await, Some(1));
    }
}
