"""Where commands run: this machine, and a sandbox of throwaway namespaces. Nobody else starts processes."""
