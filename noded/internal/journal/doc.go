// Package journal is the node daemon's durable memory: an append-only file of small records, synced in groups.
//
// The file is a header and frames. A frame is one group as it was written and synced, under one CRC32C that is salted
// with the file's own random number. A group is written only when the one before it is on disk, so a crash can damage
// the last frame and no other: recovery drops a torn tail, and refuses a file that is damaged anywhere before a whole
// frame. Compaction writes what still counts to a new file, syncs it, renames it over the old one and syncs the directory.
//
// Space is reserved ahead, so that a full disk shows when an attempt's directory is made, not in the middle of a record.
// Any error of writing or syncing is final: what is on disk is then unknown, and the daemon must end.
package journal
