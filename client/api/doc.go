// Package api is a command's connection to the controllers: it tries each in turn, follows hints to the leader, bounds
// every wait, repeats what is safe to repeat, and turns refusals into one line with the field, the problem and the
// remedy.
//
// Writes carry a request id made by the client, and a controller answers a repeated id with the first outcome. That is
// why a write whose outcome is unknown (a dead connection, a leader that lost its place) is sent again, with the same id,
// until an answer comes or the time is up.
package api
