// OpenTelemetry for JS by itself: nothing of Langfuse's but its address and keys.
import { SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';

const exporter = process.env.APP_ENCODING === 'json' ? new JsonExporter() : new ProtobufExporter();
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(exporter)] });
provider.register();
const tracer = trace.getTracer('shop', '1.2.3');

function record(name) {
  const span = tracer.startSpan(name, { attributes: { 'langfuse.trace.name': name, n: 2 ** 53, half: 0.5, list: ['a', 'b'] } });
  const generation = tracer.startSpan(
    `${name}-generation`,
    { kind: SpanKind.CLIENT, attributes: { 'gen_ai.request.model': 'gpt-4o-mini', 'gen_ai.prompt': 'Grüße?' } },
    trace.setSpan(context.active(), span),
  );
  generation.addEvent('first token', { index: 0 });
  generation.setStatus({ code: SpanStatusCode.ERROR, message: 'cut off' });
  generation.end();
  span.end();
}

export const features = {
  trace: () => record('trace'),
  flush: async () => {
    record('flush');
    await provider.forceFlush();
  },
  shutdown: async () => {
    record('shutdown');
    await provider.shutdown();
  },
};
