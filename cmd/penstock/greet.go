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

// greet ends the start-up: where the node is, who can connect, and what to type next.
func greet(w io.Writer, n *node.Node, demo bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  penstock %s, node %s\n\n", node.Version(), n.Name())
	for _, u := range n.URLs() {
		fmt.Fprintf(&b, "  MQTT        %s\n", u)
	}
	fmt.Fprintf(&b, "  HTTP        %s\n", n.HTTPURL())
	for _, who := range n.Admits() {
		fmt.Fprintf(&b, "  lets in     %s\n", who)
	}
	token, fresh := n.AdminToken()
	shown := "$PENSTOCK_ADMIN_TOKEN"
	if fresh {
		shown = token.Reveal()
		fmt.Fprintf(&b, "  admin token %s (shown only now)\n", shown)
	}
	b.WriteString("\n  What to type next, in another terminal:\n\n")
	for _, line := range next(n, demo, shown) {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	b.WriteByte('\n')
	// Standard output may be closed; the node runs on.
	_, _ = io.WriteString(w, b.String())
}

func next(n *node.Node, demo bool, token string) (lines []string) {
	where, reachable := mosquittoFlags(n.URLs())
	login := ""
	if !demo {
		lines = append(lines, "curl -s "+n.HTTPURL()+"/readyz")
		login = " -u USER -P PASSWORD"
	}
	if reachable {
		lines = append(lines, "mosquitto_sub"+where+login+" -t 'devices/+/up/#' -v")
	}
	if reachable && demo {
		lines = append(lines,
			"mosquitto_pub"+where+` -t admin/commands -m '{"targets":{"devices":["pump-1"]},"payload":"open"}'`)
	}
	device := "DEVICE"
	if demo {
		device = "pump-2"
	}
	lines = append(lines,
		fmt.Sprintf(`curl -s %s/v1/commands -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' `+
			`-d '{"targets":{"devices":["%s"]},"payload":"open"}'`, n.HTTPURL(), token, device),
		fmt.Sprintf("%s push --server %s --token %s --devices %s --payload open --wait",
			os.Args[0], n.HTTPURL(), token, device),
		fmt.Sprintf("%s clients list --server %s --token %s", os.Args[0], n.HTTPURL(), token))
	return lines
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
