// What taOS talks to: chat completions, answered by OpenCode's sessions. All else goes to OpenCode
// as it is. OpenCode runs as our child, on a port of its own with a password nobody else has.
import { spawn } from "node:child_process"
import { randomBytes, timingSafeEqual } from "node:crypto"
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs"

const PORT = Number(process.env.TAOS_BRIDGE_PORT ?? 4096)
const INNER = `127.0.0.1:${PORT + 1}`
const STATE = `${process.env.HOME}/.local/share/taos`
const TOKEN = Buffer.from(`Bearer ${process.env.TAOS_AGENT_TOKEN}`)
const LARGEST = 1 << 20
const LAST_EVENTS_WITHIN = 2000 // ms, after OpenCode says that the answer is whole

const password = randomBytes(24).toString("hex")
const authorization = "Basic " + Buffer.from(`opencode:${password}`).toString("base64")

function startOpenCode() {
  const { BUN_BE_BUN, ...env } = process.env
  const child = spawn(
    process.execPath,
    ["serve", "--hostname", "127.0.0.1", "--port", String(PORT + 1)],
    { env: { ...env, OPENCODE_SERVER_PASSWORD: password }, stdio: "inherit" },
  )
  child.on("exit", (code) => process.exit(code || 1)) // systemd starts both again
  for (const signal of ["SIGTERM", "SIGINT"])
    process.on(signal, () => {
      child.removeAllListeners("exit").on("exit", () => process.exit(0))
      child.kill(signal)
    })
}

async function opencode(method, path, { body, signal } = {}) {
  const headers = { authorization, "content-type": "application/json" }
  const options = { method, headers, signal, body: body && JSON.stringify(body), timeout: false }
  const response = await fetch(`http://${INNER}${path}`, options)
  if (!response.ok) throw new Error(`OpenCode says ${response.status} to ${method} ${path}`)
  return response
}

// Which session each conversation is, kept with the agent's state.
const conversations = (() => {
  try {
    return JSON.parse(readFileSync(`${STATE}/conversations.json`, "utf8"))
  } catch {
    return {}
  }
})()

async function sessionOf(conversation) {
  const known = conversations[conversation]
  if (known && (await opencode("GET", `/session/${known}`).catch(() => null))) return known
  const made = await (await opencode("POST", "/session", { body: { title: conversation } })).json()
  conversations[conversation] = made.id
  mkdirSync(STATE, { recursive: true })
  writeFileSync(`${STATE}/conversations.json.new`, JSON.stringify(conversations))
  renameSync(`${STATE}/conversations.json.new`, `${STATE}/conversations.json`)
  return made.id
}

// OpenCode's events, one by one; the first one says that we hear all that follow.
async function* events(signal) {
  const response = await opencode("GET", "/event", { signal })
  const decoder = new TextDecoder()
  let rest = ""
  for await (const chunk of response.body) {
    rest += decoder.decode(chunk, { stream: true })
    const whole = rest.split("\n\n")
    rest = whole.pop()
    for (const event of whole) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6))
  }
}

// The text of one answer in pieces. Ends OpenCode's work when the caller has gone.
async function* answer(session, text, gone) {
  const hearing = new AbortController()
  const heard = events(hearing.signal)
  await heard.next()
  const abort = () => opencode("POST", `/session/${session}/abort`).catch(() => {})
  gone.addEventListener("abort", abort)
  let whole, failure
  const asking = opencode("POST", `/session/${session}/message`, {
    body: { parts: [{ type: "text", text }] },
  })
    .then(async (response) => (whole = await response.json()))
    .catch((error) => (failure = error))
    .finally(() => setTimeout(() => hearing.abort(), LAST_EVENTS_WITHIN))
  const texts = new Set() // parts that are text, not reasoning
  const said = new Map() // of each part, how much we passed on
  let any = false
  try {
    for await (const { type, properties } of heard) {
      if (properties?.sessionID !== session && properties?.part?.sessionID !== session) continue
      if (type === "session.idle") break
      const part = properties.part
      if (type === "message.part.updated" && part?.type === "text" && !part.synthetic) {
        // The question is a part as well; only an answer's begins empty.
        if (part.text === "" || texts.has(part.id)) {
          if (any && !texts.has(part.id)) yield "\n\n"
          texts.add(part.id)
          const more = part.text.slice(said.get(part.id) ?? 0)
          said.set(part.id, part.text.length)
          if (more) yield more
          any ||= Boolean(more)
        }
      } else if (type === "message.part.delta" && properties.field === "text") {
        if (!texts.has(properties.partID)) continue
        said.set(properties.partID, (said.get(properties.partID) ?? 0) + properties.delta.length)
        any = true
        yield properties.delta
      }
    }
  } catch (error) {
    if (!hearing.signal.aborted) throw error
  } finally {
    gone.removeEventListener("abort", abort)
    hearing.abort()
  }
  await asking
  if (failure) throw failure
  const problem = whole.info?.error
  if (problem) throw new Error(problem.data?.message ?? problem.name)
  if (!any) yield (whole.parts ?? []).filter((one) => one.type === "text").map((one) => one.text).join("\n\n")
}

function refuse(status, message) {
  return Response.json({ error: { message, type: "invalid_request_error" } }, { status })
}

function textOf(content) {
  if (typeof content === "string") return content
  return (content ?? []).filter((one) => one.type === "text").map((one) => one.text).join("\n")
}

async function chat(request) {
  const shown = Buffer.from(request.headers.get("authorization") ?? "")
  if (shown.length !== TOKEN.length || !timingSafeEqual(shown, TOKEN)) return refuse(401, "Who asks?")
  const asked = await request.json().catch(() => null)
  const text = textOf(asked?.messages?.findLast((one) => one.role === "user")?.content)
  if (!text) return refuse(400, "There is no question.")
  const session = await sessionOf(String(asked.user ?? "main").slice(0, 100))
  const model = asked.model ?? "opencode"
  const id = `chatcmpl-${randomBytes(8).toString("hex")}`
  const made = { id, created: Math.floor(Date.now() / 1000), model }
  if (!asked.stream) {
    let content = ""
    for await (const piece of answer(session, text, request.signal)) content += piece
    const choice = { index: 0, message: { role: "assistant", content }, finish_reason: "stop" }
    return Response.json({ ...made, object: "chat.completion", choices: [choice] })
  }
  const event = (data) => `data: ${JSON.stringify(data)}\n\n`
  const chunk = (delta, finish_reason = null) =>
    event({ ...made, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }] })
  async function* stream() {
    yield chunk({ role: "assistant" })
    try {
      for await (const content of answer(session, text, request.signal)) yield chunk({ content })
      yield chunk({}, "stop")
    } catch (error) {
      yield event({ error: { message: error.message } })
    }
    yield "data: [DONE]\n\n"
  }
  return new Response(stream(), { headers: { "content-type": "text/event-stream" } })
}

function pass(request, url) {
  const headers = new Headers(request.headers)
  headers.set("authorization", authorization)
  headers.delete("host")
  return fetch(`http://${INNER}${url.pathname}${url.search}`, {
    method: request.method,
    headers,
    body: request.body,
    redirect: "manual",
    decompress: false,
    signal: request.signal,
    timeout: false,
  })
}

// A terminal in OpenCode's pages is a WebSocket; what comes before the inner one is open waits.
const websocket = {
  open(outer) {
    const inner = new WebSocket(outer.data, { headers: { authorization } })
    inner.binaryType = "arraybuffer"
    outer.inner = new Promise((resolve) => (inner.onopen = () => resolve(inner)))
    inner.onmessage = ({ data }) => outer.send(data)
    inner.onclose = inner.onerror = () => outer.close()
  },
  async message(outer, data) {
    ;(await outer.inner).send(data)
  },
  async close(outer) {
    ;(await outer.inner).close()
  },
}

startOpenCode()
Bun.serve({
  hostname: "127.0.0.1",
  port: PORT,
  idleTimeout: 0,
  maxRequestBodySize: 64 * LARGEST,
  websocket,
  async fetch(request, server) {
    const url = new URL(request.url)
    if (url.pathname === "/v1/chat/completions" && request.method === "POST") {
      if (Number(request.headers.get("content-length") ?? 0) > LARGEST) return refuse(413, "Too long.")
      return chat(request)
    }
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket") {
      const data = `ws://${INNER}${url.pathname}${url.search}`
      return server.upgrade(request, { data }) ? undefined : refuse(400, "No WebSocket.")
    }
    return pass(request, url)
  },
  error(error) {
    return refuse(502, `OpenCode does not answer: ${error.message}`)
  },
})
