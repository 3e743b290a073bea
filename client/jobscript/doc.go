// Package jobscript reads what a user hands to fsubmit: a batch script or a YAML training config, the #FETTLE and
// #SBATCH directive comments in it, and the command line's flags, and merges the options by precedence.
//
// It is pure: bytes in, structs out; no file, network or clock. Parse tells a script from a config and collects the
// directives, NewOption checks a flag or a default by the same table, and Merge leaves one value per option: flags beat
// #FETTLE, #FETTLE beats #SBATCH, #SBATCH beats defaults. What becomes of an option in a job spec is the caller's part.
//
// Directives are read from the comment block at the top of the file: in a script up to the first line that is neither
// blank nor a comment, in a config up to the first key. The words on a directive line are split as a shell would split
// them (quotes, backslash, a trailing comment) but nothing is expanded.
//
// Every #SBATCH option that Slurm knows is either mapped to one of fettle's or refused by name with what to use
// instead, so that no request is dropped in silence.
package jobscript
