//! A local AWS Lambda and a fake Langfuse.
pub mod fake_langfuse;
