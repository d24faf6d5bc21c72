"""The command line: operations as commands. stdout is data, stderr is talk; what a hot command imports is counted by a test."""
