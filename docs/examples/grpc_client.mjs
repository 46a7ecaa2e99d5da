// Asks a Dyno server over gRPC with grpc-js (npm install @grpc/grpc-js @grpc/proto-loader). DYNO_TARGET is where it is,
// DYNO_PROTO the folder of the proto files, DYNO_API_KEY a key where it asks for one.
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const definition = loader.loadSync('dyno/inference/v1/inference.proto', {
  includeDirs: [process.env.DYNO_PROTO ?? 'proto'],
  keepCase: true,
  longs: Number,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).dyno.inference.v1;
const service = new InferenceService(process.env.DYNO_TARGET ?? '127.0.0.1:50051', grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${process.env.DYNO_API_KEY ?? 'none'}`);

const request = { model: 'tales-moe', prompt: 'Once upon a time', sampling: { max_tokens: 8, seed: 4 } };
let text = '';
for await (const message of service.StreamGenerate({ request }, metadata, { deadline: Date.now() + 60_000 })) {
  text += message.text;
  if (message.finished) {
    console.log(text);
    console.log(`first token after ${(message.finished.latency.first_token * 1000).toFixed(1)} ms`);
  }
}

const whole = await new Promise((resolve, reject) => {
  service.Generate(request, metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
});
if (text !== whole.choices[0].text) throw new Error('the same seed gives the same text, whole or as a stream');

const wrong = { ...request, sampling: { ...request.sampling, temperature: 3 } };
await new Promise((resolve) => {
  service.Generate(wrong, metadata, (error) => {
    console.log(grpc.status[error.code], error.details);
    console.log(`${error.metadata.get('grpc-status-details-bin').length} of google.rpc.Status`);
    resolve();
  });
});
service.close();
