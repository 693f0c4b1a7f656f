"""Jobs as users run them: encoding, embedding, streaming."""
