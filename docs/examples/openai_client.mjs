// Asks a Dyno server with OpenAI's client for Node (npm install openai). DYNO_URL is where it is, DYNO_API_KEY a key
// where it asks for one.
import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: `${process.env.DYNO_URL ?? 'http://127.0.0.1:8000'}/v1`,
  apiKey: process.env.DYNO_API_KEY ?? 'none',
});

const stream = await client.completions.create({
  model: 'tales-moe',
  prompt: 'Once upon a time',
  max_tokens: 8,
  seed: 4,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.text ?? '');
  if (chunk.usage) console.log(`\n${chunk.usage.completion_tokens} tokens`);
}

try {
  await client.completions.create({ model: 'tales-moe', prompt: 'Once upon a time', temperature: 3 });
} catch (error) {
  console.log(error.status, error.code, error.param, error.message);
}
