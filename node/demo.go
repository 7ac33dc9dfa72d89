package node

// demoYAML is the configuration of the demo; the environment may change it like any other.
const demoYAML = `
node: {name: demo, data: ""}
listeners:
  - {type: tcp, address: "127.0.0.1:1883"}
  - {type: ws, address: "127.0.0.1:8083"}
http: {address: "127.0.0.1:8080"}
`
