//! HTTP/1.1 over blocking sockets, as little as measuring needs: what it costs must not show in the numbers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) type Headers = Vec<(String, String)>;

/// A request that came in.
pub(crate) struct Request {
    /// Method and target, such as `GET /path`.
    pub(crate) line: String,
    pub(crate) gzip: bool,
    pub(crate) body: Vec<u8>,
}

/// The next request of a connection, `None` at its end.
pub(crate) fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let line = read_line(stream)?;
    let headers = read_headers(stream)?;
    let body = match header(&headers, "content-length") {
        Some(length) => read_exactly(stream, length.parse().ok()?)?,
        None if header(&headers, "transfer-encoding").is_some() => read_chunks(stream)?,
        None => Vec::new(),
    };
    let gzip = header(&headers, "content-encoding") == Some("gzip");
    Some(Request { line, gzip, body })
}

/// Answers 200.
pub(crate) fn respond(stream: &mut TcpStream, headers: &str, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()
}

/// A kept connection to the extension.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a whole request, and returns the status of its answer once that is there with its body.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Option<u16> {
        self.ask(request).map(|(status, _)| status)
    }

    /// The same with the headers of the answer, their names in lower case.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Option<(u16, Headers)> {
        self.0.get_mut().write_all(request).ok()?;
        let status = read_line(&mut self.0)?
            .split(' ')
            .nth(1)?
            .parse::<u16>()
            .ok()?;
        let headers = read_headers(&mut self.0)?;
        match header(&headers, "content-length") {
            Some(length) => drop(read_exactly(&mut self.0, length.parse().ok()?)?),
            None if header(&headers, "transfer-encoding").is_some() => {
                read_chunks(&mut self.0)?;
            }
            None => {}
        }
        Some((status, headers))
    }
}

fn read_line(stream: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}

fn read_headers(stream: &mut impl BufRead) -> Option<Headers> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Some(headers);
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn read_exactly(stream: &mut impl Read, length: usize) -> Option<Vec<u8>> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn read_chunks(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let length = usize::from_str_radix(read_line(stream)?.split(';').next()?, 16).ok()?;
        body.extend(read_exactly(stream, length)?);
        read_line(stream)?;
        if length == 0 {
            return Some(body);
        }
    }
}
