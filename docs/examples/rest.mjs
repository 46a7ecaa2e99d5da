// Asks a Dyno server over REST with Node (18 or newer), nothing installed. DYNO_URL is where it is, DYNO_API_KEY a key
// where it asks for one.
const url = process.env.DYNO_URL ?? 'http://127.0.0.1:8000';
const headers = { authorization: `Bearer ${process.env.DYNO_API_KEY ?? 'none'}`, 'content-type': 'application/json' };
const story = { model: 'tales-moe', prompt: 'Once upon a time', max_tokens: 8, seed: 4 };

const ask = (body) => fetch(`${url}/v1/completions`, { method: 'POST', headers, body: JSON.stringify(body) });

async function* events(body) {
  const answer = await ask({ ...body, stream: true });
  let held = '';
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (held + chunk).split('\n\n');
    held = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, '');
      if (data === '[DONE]') return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error('the stream was cut off');
}

const whole = await (await ask({ ...story, dyno: { routing: 'summary' } })).json();
console.log(whole.choices[0].text);
console.log(`first token after ${(whole.dyno.choices[0].latency.first_token * 1000).toFixed(1)} ms`);

let text = '';
for await (const event of events(story)) text += event.choices[0].text;
if (text !== whole.choices[0].text) throw new Error('the same seed gives the same text, whole or as a stream');

const refusal = await ask({ ...story, temperature: 3 });
const { error } = await refusal.json();
console.log(refusal.status, error.code, error.param, error.message);
