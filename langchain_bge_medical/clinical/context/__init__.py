"""Rules for what the words around a finding say of it, in the manner of ConText (Harkema et al. 2009), for Chinese."""
