// Makes each check in order and prints what came of it as a line of JSON.

import * as checks from "./checks.mjs";
import { fault } from "./provider.mjs";

// The order of a module's exports is the alphabet's.
for (const name of checks.inOrder()) {
  await fault();
  try {
    await checks[name]();
    console.log(JSON.stringify({ check: name, ok: true, error: null }));
  } catch (error) {
    console.log(JSON.stringify({ check: name, ok: false, error: String(error?.stack ?? error) }));
  }
}
