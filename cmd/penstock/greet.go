package main

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/penstockmq/penstock/node"
)

// nobodyYet stands in the place of those who can connect, where no way to log in is configured.
const nobodyYet = `
  Nobody can connect yet: no way to log in is configured. What to put into the configuration:

    auth: {products: [{key: …, secret: …}]}     devices register by HTTP and get a token
    auth: {users: {…: "$argon2id$…"}}           user names; penstock token hash makes the line
    listeners: [{type: tls, client_ca: …, …}]   client certificates
    auth: {jwt: …} or auth: {webhook: …}        somebody else decides
    auth: {anonymous: true}                     everybody, to try it out

  Until then only a device connects that an admin has issued a token for.
`

// greet ends the start-up: where the node is, who can connect, and what to type next.
func greet(w io.Writer, n *node.Node, demo bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  penstock %s, node %s\n\n", node.Version(), n.Name())
	for _, u := range n.URLs() {
		fmt.Fprintf(&b, "  MQTT        %s\n", u)
	}
	fmt.Fprintf(&b, "  HTTP        %s\n", n.HTTPURL())
	admits := n.Admits()
	for _, who := range admits {
		fmt.Fprintf(&b, "  lets in     %s\n", who)
	}
	if token, fresh := n.AdminToken(); fresh {
		fmt.Fprintf(&b, "  admin token %s (shown only now)\n", token.Reveal())
	}
	if len(admits) == 0 {
		b.WriteString(nobodyYet)
	}
	b.WriteString("\n  What to type next, in another terminal:\n\n")
	for _, line := range next(n, demo, len(admits) > 0) {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	b.WriteByte('\n')
	// Standard output may be closed; the node runs on.
	_, _ = io.WriteString(w, b.String())
}

// next are lines for a shell, each of which works by itself.
func next(n *node.Node, demo, open bool) (lines []string) {
	token := tokenWord(n)
	api := "--token " + token
	if server := n.HTTPURL(); server != defaultServer {
		api = "--server " + server + " " + api
	}
	where, reachable := mosquittoFlags(n.URLs())
	device, waits := "pump-1", ""
	switch {
	case demo && reachable:
		lines = append(lines,
			"mosquitto_sub"+where+" -t 'devices/+/up/#' -v",
			"mosquitto_pub"+where+` -t admin/commands -m '{"targets":{"devices":["pump-1"]},"payload":"open"}'`)
		device, waits = "pump-2", " --wait"
	case reachable && open:
		lines = append(lines, "mosquitto_sub"+where+" -u USER -P PASSWORD -t 'devices/+/up/#' -v")
	case reachable:
		lines = append(lines, fmt.Sprintf(`mosquitto_pub%s -i %s -u %[2]s -P "$(%[3]s token issue %[2]s %[4]s)" `+
			`-t devices/%[2]s/up/level -m 42`, where, device, os.Args[0], api))
	}
	return append(lines,
		fmt.Sprintf(`curl -s %s/v1/commands -H "Authorization: Bearer %s" `+
			`-d '{"targets":{"devices":["%s"]},"payload":"open"}'`, n.HTTPURL(), strings.Trim(token, `"`), device),
		fmt.Sprintf("%s push %s --devices %s --payload open%s", os.Args[0], api, device, waits),
		fmt.Sprintf("%s clients list %s", os.Args[0], api))
}

// tokenWord is what stands for the admin token in a shell's line: itself only while nobody else has seen it.
func tokenWord(n *node.Node) string {
	token, fresh := n.AdminToken()
	switch file := n.AdminTokenFile(); {
	case fresh:
		return token.Reveal()
	case file != "":
		return fmt.Sprintf(`"$(cat '%s')"`, file)
	default:
		return `"$PENSTOCK_ADMIN_TOKEN"`
	}
}

// mosquittoFlags are those that reach the first listener which mosquitto's clients can use without further files.
func mosquittoFlags(urls []string) (flags string, found bool) {
	for _, u := range urls {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Scheme != "mqtt" {
			continue
		}
		host, port, err := net.SplitHostPort(parsed.Host)
		if err != nil {
			continue
		}
		if host != "127.0.0.1" && host != "localhost" {
			flags += " -h " + host
		}
		if port != "1883" {
			flags += " -p " + port
		}
		return flags, true
	}
	return "", false
}
