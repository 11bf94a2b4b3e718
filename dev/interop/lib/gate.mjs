// A gate in front of a service: it forwards connections, and can be closed for some time.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

export class Gate {
  isOpen = true
  sockets = new Set()

  // Starts a gate to the host and port of a URL.
  static async start(url) {
    const gate = new Gate()
    const { hostname, port } = new URL(url)
    gate.listener = createServer((socket) => gate.forward(socket, connect(Number(port), hostname)))
    gate.listener.listen(0, '127.0.0.1')
    await once(gate.listener, 'listening')
    gate.url = `redis://127.0.0.1:${gate.listener.address().port}`
    return gate
  }

  forward(socket, target) {
    for (const [from, to] of [[socket, target], [target, socket]]) {
      this.sockets.add(from)
      from.pipe(to)
      from.on('error', () => {})
      from.once('close', () => {
        this.sockets.delete(from)
        to.destroy()
      })
    }
    if (!this.isOpen) socket.destroy()
  }

  // Closes all connections, and each new one until `open`.
  close() {
    this.isOpen = false
    for (const socket of this.sockets) socket.destroy()
  }

  open() {
    this.isOpen = true
  }

  stop() {
    this.close()
    this.listener.close()
  }
}
