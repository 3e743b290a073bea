// Package render turns what controllers answer into what people and scripts read: tables that fit the terminal, times,
// progress bars, loss curves, and a stable JSON.
//
// Everything that came from a user or a node is escaped before it reaches a terminal: no string can move the cursor,
// recolour the screen, break a line in two or reverse the reading direction. Nothing here talks to a network.
package render
