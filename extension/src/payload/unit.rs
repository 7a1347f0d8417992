//! A payload as the core's buffer sees it.

use super::Payload;

impl langfuse_extension_core::buffer::Payload for Payload {
    fn stored_bytes(&self) -> usize {
        self.stored_bytes()
    }

    fn request_bytes(&self) -> usize {
        self.inflated_bytes()
    }

    fn travels_alone(&self) -> bool {
        self.travels_alone()
    }

    fn units(&self) -> u32 {
        self.units()
    }
}
