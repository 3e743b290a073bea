package model

import "strconv"

// CheckRequestID checks an idempotency key: 1 to MaxRequestID printable characters without spaces.
func CheckRequestID(id string) *FieldError {
	switch {
	case id == "":
		return invalid("request_id", "is empty", "send one that is unique for each request")
	case len(id) > MaxRequestID:
		return invalid("request_id", "is longer than "+strconv.Itoa(MaxRequestID)+" bytes", "shorten it")
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return invalid("request_id", "holds a space or an unprintable character", "use letters, digits and punctuation")
		}
	}
	return nil
}
