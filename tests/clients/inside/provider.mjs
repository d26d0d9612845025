// The stand-in provider's control endpoints.

async function control(endpoint, body) {
  const response = await fetch(`${process.env.CONTROL_URL}/${endpoint}`, {
    method: body ? "POST" : "GET",
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

/** Let the following calls of the provider fail so; without any, let them pass. */
export const fault = (settings = {}) => control("fault", settings);

/** The provider's calls in whose body the text stands. */
export async function asked(text) {
  const calls = await control("calls");
  return calls.filter((call) => JSON.stringify(call.body).includes(text));
}
