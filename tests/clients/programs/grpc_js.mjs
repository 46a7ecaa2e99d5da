// What grpc-js makes of streams, deadlines, cancellation and refusals. DYNO_TARGET, DYNO_PROTO as in docs/examples.
import assert from 'node:assert/strict';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const definition = loader.loadSync('dyno/inference/v1/inference.proto', {
  includeDirs: [process.env.DYNO_PROTO],
  keepCase: true,
  longs: Number,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).dyno.inference.v1;
const service = new InferenceService(process.env.DYNO_TARGET, grpc.credentials.createInsecure());
const story = { model: 'tales-dense', prompt: 'Once upon a time', sampling: { max_tokens: 400, seed: 4, ignore_eos: true } };

async function failure(stream, each = () => {}) {
  try {
    for await (const message of stream) each(message);
  } catch (error) {
    return error.code;
  }
  return grpc.status.OK;
}

const late = service.StreamGenerate({ request: story }, { deadline: Date.now() + 150 });
assert.equal(await failure(late), grpc.status.DEADLINE_EXCEEDED);
console.log('a deadline ends a stream');

const left = service.StreamGenerate({ request: story });
let seen = 0;
assert.equal(await failure(left, () => (seen += 1) === 3 && left.cancel()), grpc.status.CANCELLED);
assert.ok(seen >= 3 && seen < 400, `${seen} messages`);
console.log('a client may leave');

const short = { ...story, sampling: { ...story.sampling, max_tokens: 20 } };
const streams = Array.from({ length: 16 }, async () => {
  let text = '';
  assert.equal(await failure(service.StreamGenerate({ request: short }), (message) => (text += message.text)), 0);
  return text;
});
assert.equal(new Set(await Promise.all(streams)).size, 1);
console.log('sixteen streams on one connection');

const nobody = service.StreamGenerate({ request: { ...short, model: 'nobody' } });
assert.equal(await failure(nobody), grpc.status.NOT_FOUND);
console.log('nobody is not served');
service.close();
