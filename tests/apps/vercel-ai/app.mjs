// Vercel's AI SDK with its own telemetry, through Langfuse's span processor; the model is a mock.
import { LangfuseSpanProcessor } from '@langfuse/otel';
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { generateText } from 'ai';
import { MockLanguageModelV3 } from 'ai/test';

const processor = new LangfuseSpanProcessor();
const provider = new NodeTracerProvider({ spanProcessors: [processor] });
provider.register();

const model = new MockLanguageModelV3({
  doGenerate: async () => ({
    content: [{ type: 'text', text: 'Servus.' }],
    finishReason: { unified: 'stop', raw: 'stop' },
    usage: {
      inputTokens: { total: 7, noCache: 7, cacheRead: 0, cacheWrite: 0 },
      outputTokens: { total: 3, text: 3, reasoning: 0 },
    },
    response: { id: 'fixed', modelId: 'mock', timestamp: new Date(0) },
    warnings: [],
  }),
});

const record = (functionId) =>
  generateText({ model, prompt: 'Grüße?', experimental_telemetry: { isEnabled: true, functionId, metadata: { tags: ['a', 'b'] } } });

export const features = {
  trace: () => record('trace'),
  flush: async () => {
    await record('flush');
    await processor.forceFlush();
  },
  shutdown: async () => {
    await record('shutdown');
    await provider.shutdown();
  },
};
