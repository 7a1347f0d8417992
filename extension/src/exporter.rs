//! Where data goes. Each destination reports what it saw of a send; what that means is the core's to say.

pub mod langfuse;
pub mod roots;
pub mod upstream;
