// Package tomlerr says in the user's words what the TOML decoder found wrong with a file: line, key, problem.
package tomlerr

import (
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Fault is what is wrong with a TOML text.
type Fault struct {
	// Line counts from 1; 0 when it is not known.
	Line int
	// Key is the setting's full name, or empty.
	Key string
	// Unknown is set when the key is not one of those that the file may hold.
	Unknown bool
	// Problem is what is wrong, in one line.
	Problem string
}

// Of takes an error of the decoder apart. Of an unknown key it gives the first.
func Of(err error) Fault {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		line, _ := strict.Errors[0].Position()
		return Fault{Line: line, Key: strings.Join(strict.Errors[0].Key(), "."), Unknown: true, Problem: "unknown key"}
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		line, _ := dec.Position()
		return Fault{Line: line, Key: strings.Join(dec.Key(), "."), Problem: plain(dec.Error())}
	}
	return Fault{Problem: plain(err.Error())}
}

// plain rewrites the decoder's text: without its prefix, and without the names of Go's types.
func plain(msg string) string {
	msg = strings.ReplaceAll(strings.TrimPrefix(msg, "toml: "), "\n", " ")
	got, rest, ok := strings.Cut(msg, " into ")
	if !ok || !strings.HasPrefix(got, "cannot decode TOML ") {
		return msg
	}
	want := rest
	if _, typ, ok := strings.Cut(rest, " of type "); ok {
		want = typ
	}
	return "is " + article(strings.TrimPrefix(got, "cannot decode TOML ")) + " where " + article(typeName(want)) + " is wanted"
}

// typeName is the TOML name of a Go type.
func typeName(t string) string {
	t = strings.TrimPrefix(strings.TrimSpace(t), "*")
	switch {
	case t == "string":
		return "string"
	case t == "bool":
		return "boolean"
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "uint"):
		return "integer"
	case strings.HasPrefix(t, "float"):
		return "number"
	case strings.HasPrefix(t, "[]"):
		return "list"
	}
	return "table"
}

func article(noun string) string {
	if noun != "" && strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}
