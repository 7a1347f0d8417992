//! The floor: what any extension in Rust on tokio and hyper must cost. It listens, registers, asks for the next event,
//! answers every request with 200 without looking at it, and does nothing else.

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(live())
}

async fn live() -> Result<(), Failure> {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    let (mut lambda, connection) =
        http1::handshake(TokioIo::new(TcpStream::connect(&api).await?)).await?;
    tokio::spawn(connection);
    let body = r#"{"events":["INVOKE","SHUTDOWN"]}"#;
    let register = Request::post("/2020-01-01/extension/register")
        .header("host", &api)
        .header("lambda-extension-name", "floor")
        .body(Full::from(body))?;
    let answer = lambda.send_request(register).await?;
    let id = answer.headers()["lambda-extension-identifier"].clone();
    answer.into_body().collect().await?;

    let listener = TcpListener::bind(std::env::var("FLOOR_LISTEN")?).await?;
    tokio::spawn(listen(listener));
    loop {
        let next = Request::get("/2020-01-01/extension/event/next")
            .header("host", &api)
            .header("lambda-extension-identifier", &id)
            .body(Full::default())?;
        if next_event(&mut lambda, next).await?.contains("SHUTDOWN") {
            return Ok(());
        }
    }
}

async fn next_event(
    lambda: &mut SendRequest<Full<Bytes>>,
    next: Request<Full<Bytes>>,
) -> Result<String, Failure> {
    let body = lambda.send_request(next).await?.into_body();
    let body = body.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn listen(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _best_effort = stream.set_nodelay(true);
        let serving = http1_server().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(serving);
    }
}

fn http1_server() -> hyper::server::conn::http1::Builder {
    hyper::server::conn::http1::Builder::new()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Empty::new()))
}
