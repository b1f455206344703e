"""From numbers to pages: what turns results into something that people look at."""
