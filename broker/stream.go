package broker

import "time"

// serve is the stream driver: a goroutine that reads the connection until it ends, or until the poll driver takes over.
// It serves everything before CONNECT, and TLS and WebSocket for good. It blocks only in fill, with a shallow stack;
// everything else happens in callees that are not inlined, so that the stack of an idle connection can shrink.
func (c *conn) serve() {
	for {
		err := c.fill()
		if err == nil {
			err = c.process()
		}
		if err != nil {
			c.end(err)
			return
		}
		if c.session.Load() != nil && c.b.poller.adopt(c) {
			return
		}
		if c.fresh {
			// CONNECT has made the stack deep: go on with a new one.
			c.fresh = false
			go c.serve()
			return
		}
	}
}

// fill blocks until there are more bytes.
func (c *conn) fill() error {
	if c.raw != nil {
		return c.raw.fill()
	}
	if c.in == nil {
		c.in = make([]byte, smallBuffer)
	}
	n, err := c.nc.Read(atMost(c.in[c.inUsed:], c.b.limits.readAtOnce()))
	c.inUsed += n
	if n > 0 {
		return nil
	}
	return err
}

// process handles every complete packet that has been read, then flushes what they caused, and waits where this
// client has to be held up.
//
//go:noinline
func (c *conn) process() error {
	bt := c.b.getBatch()
	buf, used := c.in, c.inUsed
	if c.raw != nil {
		c.raw.rused += c.raw.rn
		buf, used = c.raw.rbuf, c.raw.rused
	}
	consumed, err := c.feed(bt, buf[:used])
	if err == nil {
		c.keep(buf, used, consumed)
	}
	bt.flush(c)
	room, published := bt.takeRoom(), bt.published
	c.b.putBatch(bt)
	if err != nil {
		return err
	}
	if pause, must := c.mustHold(room, published); must {
		return c.hold(room, pause)
	}
	return nil
}

// keep moves an incomplete packet to the start of the read buffer, and grows or gives back the buffer.
func (c *conn) keep(buf []byte, used, consumed int) {
	rest := used - consumed
	copy(buf, buf[consumed:used])
	if rest == len(buf) { // one packet fills it: grow with what has arrived, not with what was announced
		grown := make([]byte, min(2*len(buf), c.packetLimit()+5))
		copy(grown, buf)
		buf = grown
	} else if rest == 0 && c.raw == nil && len(buf) > 16<<10 {
		buf = make([]byte, smallBuffer)
	}
	if c.raw == nil {
		c.in, c.inUsed = buf, rest
		return
	}
	c.raw.rbuf, c.raw.rused = buf, rest
	if rest == 0 {
		putRead(buf)
		c.raw.rbuf = nil
	}
}

// linger lets a client read the last packet: closing a socket that still holds unread input would reset it, and the
// reset overtakes the packet.
func (c *conn) linger() {
	c.flush()
	if c.outEmpty() {
		_ = c.nc.CloseWrite()
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerFor))
	var scratch [512]byte
	for discarded := 0; discarded < 1<<20; {
		n, err := c.nc.Read(scratch[:])
		if err != nil {
			return
		}
		discarded += n
	}
}

// end is the stream driver's last act.
//
//go:noinline
func (c *conn) end(err error) {
	if c.goOffline(err) {
		c.linger()
	}
	c.closeOut()
	_ = c.nc.Close()
	if c.raw != nil && c.raw.rbuf != nil {
		putRead(c.raw.rbuf)
		c.raw.rbuf = nil
	}
	c.closed()
}

func (c *conn) outEmpty() bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.buf) == 0 && !c.out.writing
}
