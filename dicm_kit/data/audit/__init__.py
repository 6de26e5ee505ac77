"""What is in a dataset folder, and what is wrong with it, as a person reads it."""

from dicm_kit.data.audit.look import audit
from dicm_kit.data.audit.result import Audit
from dicm_kit.data.audit.words import AUDIT_FILE, complaints, is_audited, text, write_audit

__all__ = ["AUDIT_FILE", "Audit", "audit", "complaints", "is_audited", "text", "write_audit"]
