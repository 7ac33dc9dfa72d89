package listen

import "net"

// Socket lets tests reach below TLS and WebSocket.
func (c *Conn) Socket() *net.TCPConn { return c.tcp }
