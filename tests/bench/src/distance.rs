//! A network between the extension and Langfuse: every byte, and every connection's opening, takes its time.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Listens, and passes on to `far`; a round trip takes `round_trip` longer than without it. The kernel accepts a
/// connection at once, so what its opening takes is put before the first byte.
pub(crate) fn between(far: SocketAddr, round_trip: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(far) else {
                return;
            };
            let opened = Instant::now() + round_trip;
            for stream in [&near, &far] {
                let _best_effort = stream.set_nodelay(true);
            }
            let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else {
                return;
            };
            delay(near, far, round_trip / 2, opened);
            delay(far_again, near_again, round_trip / 2, opened);
        }
    });
    address
}

fn delay(mut from: TcpStream, mut to: TcpStream, delay: Duration, not_before: Instant) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let due = Instant::now().max(not_before) + delay;
            if sender.send((due, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _already_closed = to.shutdown(Shutdown::Write);
    });
}
