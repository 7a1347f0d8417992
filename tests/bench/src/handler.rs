//! The function: a runtime whose handler computes for a while, traces what it did, and answers with the time it took.

use std::time::Instant;

use crate::http::{Client, header};
use crate::load::Post;

/// Where the extension listens; without it nothing is traced.
pub(crate) const ADDRESS: &str = "BENCH_ADDRESS";
/// Its path for OTLP.
pub(crate) const PATH: &str = "BENCH_PATH";
/// POSTs of ten spans, spread over the handler.
pub(crate) const POSTS: &str = "BENCH_POSTS";
/// How much is computed, in millions of multiplications.
pub(crate) const WORK: &str = "BENCH_WORK";

/// Never returns while Lambda's API answers.
pub(crate) fn live() -> Option<()> {
    let setting = |name| std::env::var(name).ok();
    let number = |name| {
        setting(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let (posts, work): (u64, u64) = (number(POSTS), number(WORK) * 1_000_000);
    let mut lambda = Client::connect(setting("AWS_LAMBDA_RUNTIME_API")?.parse().ok()?).ok()?;
    let mut post = Post::of_ten(&setting(PATH).unwrap_or_default());
    let mut extension = None;
    loop {
        let next = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: lambda\r\n\r\n";
        let (_, headers) = lambda.ask(next)?;
        let id = header(&headers, "lambda-runtime-aws-request-id")?;
        let start = Instant::now();
        if extension.is_none() {
            extension = setting(ADDRESS).and_then(|to| Client::connect(to.parse().ok()?).ok());
        }
        for _ in 0..posts.max(1) {
            compute(work / posts.max(1));
            if posts > 0
                && let Some(client) = &mut extension
                && client.exchange(post.fresh()).is_none()
            {
                extension = None;
            }
        }
        let body = start.elapsed().as_secs_f64().to_string();
        let answer = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nhost: lambda\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        lambda.exchange(answer.as_bytes())?;
    }
}

fn compute(steps: u64) {
    let mut state = 1_u64;
    for _ in 0..steps {
        state = std::hint::black_box(
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
}
