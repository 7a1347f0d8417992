// A Node runtime for Lambda in a few lines: AWS's own needs a C++ toolchain to install. Usage: node bootstrap.mjs APP.mjs
import http from 'node:http';
import { pathToFileURL } from 'node:url';

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, agent, method, path: `/2018-06-01/runtime/${path}` }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve({ headers: response.headers, text: Buffer.concat(chunks).toString() }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

// `idle` is nothing, for long enough that the client's own timers run.
const IDLE_MS = 300;
const idle = () => new Promise((done) => setTimeout(done, IDLE_MS));
const features = { ...(await import(pathToFileURL(process.argv[2]))).features, idle };
for (;;) {
  const { headers, text } = await call('GET', 'invocation/next');
  const feature = features[JSON.parse(text).feature];
  const started = performance.now();
  let result;
  try {
    result = String(await feature());
  } catch (error) {
    result = `raised ${error.name}: ${error.message}`; // What the client throws at an app is a result, too.
  }
  const answer = { result, waited_ms: Math.round((performance.now() - started) * 10) / 10 };
  await call('POST', `invocation/${headers['lambda-runtime-aws-request-id']}/response`, JSON.stringify(answer));
}
