// The faults of soak.mjs, one after the other. A fault of requests hits the next refresh of each
// program once; the other faults hit the server or its services.
const pause = (s) => new Promise((resolve) => setTimeout(resolve, s * 1000))

const ofRequests = {
  'lost request': 'lose request',
  'lost response': 'lose response',
  '503 before the server': 'unavailable',
  '503 after the server': 'unavailable after',
  'half of the response': 'cut',
  'connection reset': 'reset',
  'delay of 8 s': { late: 8000 },
}

export class Faults {
  // How often each fault happened, and how many requests it hit.
  counts = new Map()
  hit = new Set()

  // `ofServices` are functions by the names of faults.
  constructor(ofServices) {
    this.ofServices = ofServices
    // Two faults of requests, then one of services.
    const services = Object.keys(ofServices)
    this.names = Object.keys(ofRequests).flatMap((name, i) => [name, ...(i % 2 ? services.splice(0, 1) : [])])
  }

  // Starts the next fault, and ends that of requests before it. Returns its name.
  async next() {
    const name = this.names.shift()
    this.names.push(name)
    this.current = name
    this.hit.clear()
    this.count().times += 1
    await this.ofServices[name]?.()
    return name
  }

  end() {
    this.current = undefined
  }

  count() {
    if (!this.counts.has(this.current)) this.counts.set(this.current, { times: 0, requests: 0 })
    return this.counts.get(this.current)
  }

  // Returns what happens to a token request of a program.
  fate({ grant_type: grant }, program) {
    const fate = ofRequests[this.current]
    if (!fate || !program || grant !== 'refresh_token') return 'pass'
    if (this.hit.has(program) || program.spared?.faults.includes(this.current)) return 'pass'
    this.hit.add(program)
    this.count().requests += 1
    program.faults += 1
    return fate
  }
}

// Closes the gate of Redis for 10 s. Redis has lost its data afterwards.
export async function loseRedis(gate, flush) {
  gate.close()
  await pause(10)
  await flush()
  gate.open()
}
