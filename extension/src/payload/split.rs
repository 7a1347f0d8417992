//! Cutting an accepted body in two.

use super::Payload;

pub(super) async fn split(payload: Payload) -> Result<(Payload, Payload), Payload> {
    Err(payload)
}
