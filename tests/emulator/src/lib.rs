//! A local AWS Lambda and a fake Langfuse.
