"""What people ask for: prompts and splitting, on LangChain."""
