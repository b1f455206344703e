"""The caption service: `vivo serve` (docs/service.md). Needs the extra [serve]."""
