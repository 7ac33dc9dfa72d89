package command

import (
	"fmt"
	"net/http"
	"strings"
)

// Problem is why a call was refused, for people and programs: RFC 9457 problem details, with the fields at fault.
type Problem struct {
	Status int          `json:"status"` // HTTP status code
	Title  string       `json:"title"`
	Detail string       `json:"detail"`
	Fields []FieldFault `json:"errors,omitempty"`
}

// FieldFault is what is wrong with one field of a request.
type FieldFault struct {
	Location string `json:"location"` // for example body.targets.devices[3]
	Message  string `json:"message"`
}

func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	for i, f := range p.Fields {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s %s", sep, strings.TrimPrefix(f.Location, "body."), f.Message)
	}
	return b.String()
}

func problem(status int, format string, args ...any) *Problem {
	return &Problem{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...)}
}

// faults gathers what is wrong with a request, so that all of it is reported at once.
type faults []FieldFault

// maxFaults bounds how many faults are listed: a list of 10,000 bad device ids needs no 10,000 messages.
const maxFaults = 20

func (f *faults) add(location, format string, args ...any) {
	if len(*f) < maxFaults {
		*f = append(*f, FieldFault{"body" + location, fmt.Sprintf(format, args...)})
	}
}

func (f faults) problem() *Problem {
	p := problem(http.StatusUnprocessableEntity, "the command is not valid")
	for _, fault := range f {
		if fault.Location == "body" && strings.HasPrefix(fault.Message, "is not JSON") {
			p = problem(http.StatusBadRequest, "the command is not JSON")
			break
		}
	}
	p.Fields = f
	return p
}
