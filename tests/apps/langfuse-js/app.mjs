// Everything an app does with Langfuse's JS SDK.
import { LangfuseClient } from '@langfuse/client';
import { LangfuseMedia } from '@langfuse/core';
import { LangfuseSpanProcessor } from '@langfuse/otel';
import { startActiveObservation, startObservation } from '@langfuse/tracing';
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';

const processor = new LangfuseSpanProcessor();
const provider = new NodeTracerProvider({ spanProcessors: [processor] });
provider.register();
const langfuse = new LangfuseClient();

async function record(name, picture) {
  await startActiveObservation(name, async (span) => {
    const generation = startObservation(
      `${name}-generation`,
      {
        model: 'gpt-4o-mini',
        modelParameters: { temperature: 0.5 },
        input: [{ role: 'user', content: 'Grüße?' }],
        metadata: { tags: ['a', 'b'], nested: { deep: null } },
      },
      { asType: 'generation' },
    );
    generation.update({ output: 'Servus.', usageDetails: { input: 7, output: 3 }, costDetails: { total: 0.0001 } });
    generation.end();
    span.update({ input: { question: 'Grüße?', n: 2 ** 53 }, output: { answer: 'Servus.', picture } });
    langfuse.score.observation(generation, { name: `${name}-quality`, value: 0.75, comment: 'fine' });
    langfuse.score.trace(span, { name: `${name}-verdict`, value: 'good', dataType: 'CATEGORICAL' });
  });
}

async function flushed(name, picture) {
  await record(name, picture);
  await processor.forceFlush();
  await langfuse.flush();
}

export const features = {
  trace: () => record('trace'),
  flush: () => flushed('flush'),
  media: () =>
    flushed(
      'media',
      new LangfuseMedia({ source: 'bytes', contentBytes: Buffer.from('\x89PNG fixed content', 'latin1'), contentType: 'image/png' }),
    ),
  prompt: async () => (await langfuse.prompt.get('movie critic/v2 ä')).compile({ movie: 'Metropolis' }),
  fallback: async () => (await langfuse.prompt.get('not there', { fallback: 'Use {{what}}.' })).compile({ what: 'this' }),
  auth: async () => (await langfuse.api.projects.get()).data.length === 1,
  shutdown: async () => {
    await record('shutdown');
    await langfuse.shutdown();
    await provider.shutdown();
  },
};
