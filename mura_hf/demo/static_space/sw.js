/**
 * Keeps the page for use without a network, and adds the headers that a static host does not send: isolation, which
 * threads need, and the policy that forbids connections to other servers, also for workers.
 */

const VERSION = "__VERSION__";
const FIRST = __FIRST__; // kept at once
const LATER = __LATER__; // large files, kept when they are used
const POLICY = "__POLICY__";
const NAME = `${self.registration.scope} ${VERSION}`;

const address = (file) => new URL(file, self.registration.scope).href;

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(activate()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = request.method === "GET" && request.url.startsWith(self.registration.scope);
  event.respondWith(isOurs ? answer(event) : Response.error());
});

async function install() {
  const cache = await caches.open(NAME);
  await cache.addAll(FIRST.map((file) => new Request(address(file), { cache: "no-cache" })));
  // A new version waits until the page is closed, so that files of two versions are never mixed.
  if (!self.registration.active) await self.skipWaiting();
}

async function activate() {
  const old = (await caches.keys()).filter((name) => name.startsWith(`${self.registration.scope} `) && name !== NAME);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(event) {
  const cache = await caches.open(NAME);
  const asked = event.request.url.split(/[?#]/)[0];
  const url = asked === self.registration.scope ? address("index.html") : asked;
  const kept = await cache.match(url);
  if (kept) return protect(kept);
  const response = await fetch(event.request);
  if (response.ok && LATER.map(address).includes(url)) event.waitUntil(cache.put(url, response.clone()));
  return protect(response);
}

function protect(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  headers.set("Content-Security-Policy", POLICY);
  headers.delete("Content-Encoding"); // the body is decoded already
  headers.delete("Content-Length");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
