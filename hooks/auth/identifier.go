package auth

import (
	"fmt"
	"strings"
)

// maxIdentifier is the longest device identifier, in characters. MQTT itself promises only 23.
const maxIdentifier = 128

// CheckDeviceID says what is wrong with an identifier that a device wants to register, or nil. An identifier becomes a
// topic level, a key in stores and a part of URLs: 1 to 128 characters of A-Z a-z 0-9 . _ : @ -, the first of them a
// letter or a digit.
func CheckDeviceID(id string) error {
	if id == "" || len(id) > maxIdentifier {
		return &FieldError{"device_id", fmt.Sprintf("must have 1 to %d characters", maxIdentifier)}
	}
	for i := range len(id) {
		switch c := id[i]; {
		case isAlphanumeric(c):
		case i == 0:
			return &FieldError{"device_id", "must begin with a letter or a digit"}
		case !strings.ContainsRune("._:@-", rune(c)):
			return &FieldError{"device_id", "may hold only letters, digits and . _ : @ -"}
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// isName reports whether a user name that comes from outside (a certificate, a token, a webhook) may be taken over:
// not empty, of bounded length, and without control characters.
func isName(name string) bool {
	return name != "" && len(name) <= 256 && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r == 0x7F || r == 0xFFFD
	})
}
