package node

import "time"

// What the demo's simulated devices do.
const (
	demoPumps = 10
	demoEvery = 3 * time.Second
	demoWork  = time.Second
)

// demoYAML is the configuration of the demo; the environment may change it like any other.
const demoYAML = `
node: {name: demo, data: ""}
listeners:
  - {type: tcp, address: "127.0.0.1:1883"}
  - {type: ws, address: "127.0.0.1:8083"}
http: {address: "127.0.0.1:8080"}
auth: {anonymous: true}
log: {level: warn}
uplink:
  routes:
    - {filter: "devices/+/up/#"}
`
