"""The restoring verbs at work: how a run over pictures is driven and shown."""
